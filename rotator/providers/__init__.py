"""The services that issue keys, behind `ports.Provider`. What is particular to one of them stays in its package."""
