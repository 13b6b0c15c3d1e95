"""`ptl report`: run folders become tables, plots, one Markdown file and one HTML page."""
