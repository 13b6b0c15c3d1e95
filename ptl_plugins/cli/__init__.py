"""The command `ptl`: one file per subcommand, all thin."""
