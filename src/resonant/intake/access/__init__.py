"""Who may use the intake: tokens, and protection from pages of other origins."""
