"""The routes, one module a resource: its bodies, its views and its handlers."""
