"""Models and pictures to try the program with."""
