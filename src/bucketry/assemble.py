"""The one place that joins components: read it top to bottom for the architecture."""
