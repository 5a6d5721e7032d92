"""Training one network, and several for the audit."""
