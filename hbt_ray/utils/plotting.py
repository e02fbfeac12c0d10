"""The colours that figures share."""

DARK, ACCENT, MUTED, WARM = "#20303c", "#2f6f9f", "#9fb3c1", "#e0503c"
