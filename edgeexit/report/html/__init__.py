"""Reports as one HTML page with SVG charts."""
