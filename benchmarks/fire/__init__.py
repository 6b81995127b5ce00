"""Random traffic whose every answer is checked: what the soak and the differential test share."""
