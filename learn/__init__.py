"""What training needs, and what it leaves."""
