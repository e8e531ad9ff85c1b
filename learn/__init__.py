"""What training needs and what it writes."""
