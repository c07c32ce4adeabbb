"""The cost of the stages alone, without a server. Start with stage_cost.py."""
