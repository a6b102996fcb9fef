"""Models held to what is exactly known: committed configurations, small weights, and the numbers they reach."""
