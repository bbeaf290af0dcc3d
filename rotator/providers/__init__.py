"""The services that issue keys, one module each, behind `ports.Provider`. Nothing of any one vendor is known elsewhere."""
