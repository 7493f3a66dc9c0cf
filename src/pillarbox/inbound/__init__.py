"""Mail on its way in: the sessions of clients, and the one door into the queue."""
