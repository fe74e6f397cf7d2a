"""The outer face of ironcage: the command line, later HTTP and WebSocket."""
