"""The webhook port, and the relay of webhooks to the other pods."""
