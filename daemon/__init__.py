"""The process annexd: event loop, sockets, timers and control; all of the asyncio is here."""
