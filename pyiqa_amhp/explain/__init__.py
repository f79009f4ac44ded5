"""Why a score is what it is: what is computed, and how it is shown."""
