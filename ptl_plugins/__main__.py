"""`python -m ptl_plugins` is `ptl`."""

from ptl_plugins.cli.main import main

if __name__ == "__main__":
    main()
