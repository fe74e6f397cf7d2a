"""What a runtime embeds to spend its lease."""
