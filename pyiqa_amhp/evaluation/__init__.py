"""Tables and figures: metrics beside each other, with intervals, and beside published results."""
