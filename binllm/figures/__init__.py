"""Figures from run folders alone, as SVG and PNG. Needs the extra ``figures``; matplotlib is imported when one is drawn."""
