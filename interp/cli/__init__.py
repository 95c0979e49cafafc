"""The command line: parse, call a study, print."""
