"""Other people's programs on our data, and ours on theirs."""
