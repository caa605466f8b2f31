"""A page that shows one run or several, in one HTML file."""
