"""The service's side of the contract: requests checked, answers written, pictures drawn and hosted."""
