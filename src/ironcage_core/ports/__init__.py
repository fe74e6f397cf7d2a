"""What the use cases ask of the outside: storage, secrecy, system."""
