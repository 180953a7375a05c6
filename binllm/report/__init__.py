"""What runs say: their series side by side, the diagnosis in words, and the HTML page. Needs the extra ``figures``."""
