"""The API of the emulated service: parsing requests, building replies, drawing pictures and signing their links."""
