"""The services that issue keys, behind `ports.Provider`. Nothing of any one vendor is known elsewhere."""
