"""False alarms and delays of the drift verdicts."""
