"""The webhook port, and the relay of a webhook to the other pods."""
