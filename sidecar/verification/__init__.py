"""Does this person hold this address?"""
