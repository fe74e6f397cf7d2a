"""What each migration executes, oldest first; written once and never edited."""
