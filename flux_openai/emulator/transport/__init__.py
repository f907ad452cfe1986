"""The two ways to the service: as an httpx transport in this process, and over a port."""
