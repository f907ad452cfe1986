"""Time and load: the clock, how long requests take, and how many are admitted."""
