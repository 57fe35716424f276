package awskms

import "time"

// LookAgain makes the next call look at the files of settings, as it would after
// some time.
func LookAgain(c *Client) {
	c.identity.mu.Lock()
	defer c.identity.mu.Unlock()
	c.identity.schedule.looked = time.Time{}
}

// LookedUp waits until the look-up that began last has ended.
func LookedUp(c *Client) {
	c.identity.mu.Lock()
	last := c.identity.last
	c.identity.mu.Unlock()
	if last != nil {
		<-last.done
	}
}

// Hosts is how many hosts have connections, or had them and are remembered.
func Hosts(c *Connections) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pools)
}
