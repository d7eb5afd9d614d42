"""The verbs that decide: which model is the champion, and what a model makes of pictures."""
