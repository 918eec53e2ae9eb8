"""What a start would do and take."""
