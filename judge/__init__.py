"""How good a network is: numbers, tables, pictures, damage. No torch."""
