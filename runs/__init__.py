"""Runs: what is started, how it goes on, and what is known of it afterwards."""
