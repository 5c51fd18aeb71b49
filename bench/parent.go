package main

import (
	"fmt"
)

func parent(args []string) error {
	for r := 0; r < 2; r++ {
		for _, k := range kinds {
			if len(args) > 0 && args[0] != k.name {
				continue
			}
			p, err := connect(k, loadConfig{Rooms: 1, Members: 1000, Size: 128})
			if err != nil {
				fmt.Println(k.name, err)
				continue
			}
			for _, o := range []int{1, 64} {
				if _, err := p.run(phase{Outstanding: o, Millis: 300}); err != nil {
					fmt.Println(err)
					break
				}
				m, err := p.run(phase{Outstanding: o, Millis: 1500})
				if err != nil {
					fmt.Println(err)
					break
				}
				fmt.Printf("%-14s %2d cpu %.2f user %.2f rate %.0f mallocs %.3f one order %v msgs %d\n", k.name, o, m.cpu(), m.user(), m.rate(), m.mallocs(), m.OneOrder, m.Messages)
			}
			p.stop()
		}
	}
	return nil
}
