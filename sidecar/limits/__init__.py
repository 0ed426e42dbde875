"""May it happen again so soon?"""
