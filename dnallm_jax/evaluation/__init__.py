"""How good is the detector, how sure may one be, and what would something simpler have done?"""
