"""Between threads that wait and an event loop that works for them."""
