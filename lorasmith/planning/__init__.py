"""`lorasmith plan`: what a start would do and cost. Takes no lock and writes nothing where the user's files are."""
