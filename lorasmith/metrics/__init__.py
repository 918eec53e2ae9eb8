"""How far pictures are from pictures. Knows arrays; nothing of files, models' formats, runs or people."""
