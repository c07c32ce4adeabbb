"""False alarms and detection delays of the drift verdicts (calibration.py)."""
