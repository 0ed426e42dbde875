"""How does the code get there?"""
