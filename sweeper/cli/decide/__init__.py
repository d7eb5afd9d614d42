"""The verbs that decide: on the champion, what a model predicts, where it goes, and whether a trial comes out again."""
