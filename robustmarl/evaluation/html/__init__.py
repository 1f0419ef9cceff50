"""Reports to look at: one HTML file that needs nothing else."""

# page puts a file together: page.html with style.css, the scripts and, as JSON, the data. tables,
# charts and films say what is in the data; heatmap.js, chart.js and player.js draw it.

from robustmarl.evaluation.html.page import report

__all__ = ["report"]
