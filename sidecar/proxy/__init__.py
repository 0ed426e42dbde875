"""How do bytes pass unchanged?"""
