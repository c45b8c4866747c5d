"""The policies, one file each. Law: siblings do not know one another; what two of them need stands a floor below."""
